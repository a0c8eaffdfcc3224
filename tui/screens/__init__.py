"""The four screens (fit, plan, run, results) and the windows that open over them."""
