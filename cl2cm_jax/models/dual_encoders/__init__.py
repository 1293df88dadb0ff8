"""Folders of dual encoders (CLIP, SigLIP, MetaCLIP 2), in the naming of transformers or of OpenCLIP.

A tower is read as transformers would write it alone, whatever the folder holds.
"""
