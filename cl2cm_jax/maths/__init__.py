"""The method as pure functions on arrays: no parameters, no state, no files; fp32 throughout."""
