"""Studies: what measures the method and the machine."""
