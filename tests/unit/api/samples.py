import io

from PIL import Image

from svd_service.jobs.job import Holder

VIDEO = bytes(range(256)) * 8
HOLDER = Holder("host/0", "cpu", "instance", 1)


def png(size: tuple[int, int], colour: str = "red") -> io.BytesIO:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    buffer.seek(0)
    return buffer
