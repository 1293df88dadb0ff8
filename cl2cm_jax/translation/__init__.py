"""Captions from one language into another: engines, and the job that runs them without losing or repeating one."""
