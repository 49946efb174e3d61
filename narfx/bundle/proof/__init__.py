"""bundle/proof."""
