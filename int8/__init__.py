"""SmoothQuant W8A8 in torch: calibration, folds, fake-quant and real int8."""
