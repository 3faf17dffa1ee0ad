"""The command line: `python -m evlm`, its terminal, the demo and the doctor."""
