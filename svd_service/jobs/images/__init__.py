"""An upload, from untrusted bytes to a clean RGB image that a video begins with.

Decoders have bugs, and files can make them work for minutes or fill the memory, so that no upload is decoded in the
web process. `opening.open_image` lends each upload a decoder process of the pool (`pool`); there the file's structure
is scanned first (`scan`, which drops all that does not affect pixels), then Pillow decodes the rest (`decoding`),
under limits on processor time and address space (`limits`).
"""
