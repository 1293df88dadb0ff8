"""One train step: outputs of the networks -> named terms -> one total -> one update."""
