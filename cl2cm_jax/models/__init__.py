"""Encoders: backbones, towers, and the two networks made of them."""
