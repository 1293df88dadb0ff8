"""A trained student as a folder that stands alone: written, described, loaded, converted, uploaded."""
