"""Loss terms of the objective, one module each: `term(inputs)` returns the value, or (value, {name: value to log})."""
