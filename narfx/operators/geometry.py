"""Arithmetic of convolutions at a site: the padding that keeps the output size, and costs by formula."""

from __future__ import annotations

from narfx.space.records import Site

__all__ = ["conv_cost", "padding_for", "pointwise_cost", "refuse_padding", "total"]


def padding_for(site: Site, kernel: int, dilation: tuple[int, int]) -> tuple[int, int]:
    """The padding (height, width) with which a square ``kernel`` gives the site's output size.

    Kernels are odd, so this is exact, and the centre tap stays at the position of the site's centre tap.
    """
    grown = [d * (kernel - 1) - sd * (k - 1) for d, sd, k in zip(dilation, site.dilation, site.kernel, strict=True)]
    return (site.padding[0] + grown[0] // 2, site.padding[1] + grown[1] // 2)


def refuse_padding(site: Site, kernel: int) -> str | None:
    """The reason why a ``kernel``, with the site's dilation and padding mode, cannot keep the output size."""
    needed = padding_for(site, kernel, site.dilation)
    if any(padding < 0 for padding in needed):
        return f"no padding gives a {kernel}x{kernel} kernel the output size of the site"
    room = [size - padding for size, padding in zip(site.input_shape[1:], needed, strict=True)]
    if site.padding_mode == "reflect" and min(room) <= 0:
        return "reflect padding needs a feature map larger than the padding"
    if site.padding_mode == "circular" and min(room) < 0:
        return "circular padding needs a feature map at least as large as the padding"
    return None


def conv_cost(
    site: Site, kernel: int, in_channels: int, out_channels: int, groups: int, bias: bool
) -> dict[str, float]:
    """Parameters, and MACs of one sample, of a convolution with the site's output size."""
    weights = kernel * kernel * (in_channels // groups) * out_channels
    _, height, width = site.output_shape
    return {"params": weights + (out_channels if bias else 0), "macs": weights * height * width * site.images}


def pointwise_cost(site: Site) -> dict[str, float]:
    """The cost of a 1×1 convolution from the site's input channels to its output channels, at its output size."""
    return conv_cost(site, 1, site.in_channels, site.out_channels, site.groups, site.bias)


def total(*costs: dict[str, float]) -> dict[str, float]:
    """The sum of several costs, metric by metric."""
    return {metric: sum(cost[metric] for cost in costs) for metric in costs[0]}
