"""Pretrained encoders, one module each: `text/` and `vision/` (see `models.backbone`). The configuration names them."""
