"""A page that runs a network in the reader's browser, without a server and without a network.

`contents.py` computes what the page knows beside the network: strongest patches, maximizing images,
vectors. `runtime.py` finds the program that runs ONNX in a browser. `page.py` puts all of it, with
the scripts in `js/`, into one file or one folder.
"""
