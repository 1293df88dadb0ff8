"""Networks of transformer backbones, without their weights."""
