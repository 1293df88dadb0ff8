"""Vision backbones; each module defines `SPEC`, a `models.backbone.VisionSpec`."""
