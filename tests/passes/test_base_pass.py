"""The contract that every pass keeps, whoever wrote it."""

from __future__ import annotations

import operator

import pytest
import torch
from sample_networks import Chain, images
from torch.fx import GraphModule, symbolic_trace
from torch.fx.passes.infra.pass_base import PassResult
from torch.fx.passes.infra.pass_manager import PassManager

from narfx.errors import UsageError
from narfx.passes import Pass


class Double(Pass):
    """In place: the output times two, once."""

    in_place = True

    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        (output,) = graph_module.graph.find_nodes(op="output")
        (source,) = output.all_input_nodes
        if source.target is operator.mul:
            return graph_module, False
        with graph_module.graph.inserting_before(output):
            output.args = (graph_module.graph.call_function(operator.mul, (source, 2)),)
        return graph_module, True


class Copying(Double):
    """Declared in place, but it gives another module back."""

    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        return GraphModule(graph_module, graph_module.graph), True


class Secret(Double):
    """Declared functional, but it changes what it was given."""

    in_place = False


class Refusing(Double):
    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        raise UsageError("no", kind="some_reason")


class Broken(Double):
    """Leaves a graph in which a node is used before it is made."""

    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        first, *_, last = [node for node in graph_module.graph.nodes if node.op == "call_module"]
        first.args = (last,)
        return graph_module, True


def traced() -> GraphModule:
    return symbolic_trace(Chain().eval())


def test_a_modified_graph_is_recompiled() -> None:
    graph_module, x = traced(), images(2, 3, 8, 8)
    before = graph_module(x)
    result = Double()(graph_module)
    assert isinstance(result, PassResult)
    assert result.modified and result.graph_module is graph_module
    assert torch.equal(result.graph_module(x), 2 * before)


def test_a_second_run_changes_nothing() -> None:
    first = Double()(traced())
    code = first.graph_module.code
    second = Double()(first.graph_module)
    assert not second.modified
    assert second.graph_module.code == code


def test_a_pass_takes_what_another_returned() -> None:
    assert not Double()(Double()(traced())).modified


def test_passes_run_in_the_pass_manager_of_torch() -> None:
    graph_module, x = traced(), images(2, 3, 8, 8)
    before = graph_module(x)
    result = PassManager([Double(), Double()])(graph_module)
    assert result.modified
    assert torch.equal(result.graph_module(x), 2 * before)


@pytest.mark.parametrize(("broken", "said"), [(Copying, "in place"), (Secret, "functional")])
def test_a_pass_that_breaks_its_word_is_named(broken: type[Pass], said: str) -> None:
    with pytest.raises(TypeError, match=said) as caught:
        broken()(traced())
    assert broken.__name__ in str(caught.value)


def test_an_error_keeps_its_type_and_gets_the_name_of_the_pass() -> None:
    with pytest.raises(UsageError) as caught:
        Refusing()(traced())
    assert caught.value.kind == "some_reason"
    assert caught.value.__notes__ == ["in the pass Refusing"]


def test_a_graph_that_is_not_well_formed_is_caught() -> None:
    with pytest.raises(RuntimeError, match="before it has been defined"):
        Broken()(traced())
