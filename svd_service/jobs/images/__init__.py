"""An upload, from untrusted bytes to a clean RGB image that a video begins with.

Decoders have bugs, and files can make them work for minutes or fill the memory, so that no upload is decoded in the
web process. `opening.open_image` lends each upload a decoder process of the pool (`pool`), with limits on processor
time and address space (`limits`). What the upload meets there, in this order:

1. `scan/` has a module per format, which walks the file's structure and drops all that does not affect pixels: the
   chunks of a PNG are in `scan/png.py`.
2. `decoding.py` checks the number of pixels, and lets Pillow decode the rest.

A process that ends before it answers is replaced, and the upload gets a second try or an error (`opening`, `pool`).
"""
