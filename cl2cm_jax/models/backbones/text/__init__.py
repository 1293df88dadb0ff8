"""Text backbones; each module defines `SPEC`, a `models.backbone.TextSpec`."""
