"""Post-training quantization of weights in torch: RTN, GPTQ, AWQ, SmoothQuant, HQQ, BiLLM and rotations."""
