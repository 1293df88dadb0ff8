"""CL2CM in JAX: cross-lingual cross-modal retrieval with knowledge transfer."""

__version__ = "0.1.0"
