"""One mesh for 1 CPU, 8 forced host devices, GPUs and TPU pods: where arrays live and how hosts meet."""
