"""Quantizes a causal language model to GPTQ: ``python -m scripts.quantization SOURCE DEST``.

``source`` reads what is to be quantized, ``passages`` is the text to calibrate and to measure on,
``perplexity`` measures, ``quantize`` does the work, ``demo`` prepares the demo model.
"""
