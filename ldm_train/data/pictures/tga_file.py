"""Read a Targa file's fourth channel as transparency only if its header says that it is one."""

from PIL import TgaImagePlugin

ALPHA_BITS = 0x0F  # of the header's last byte


class CheckedTga(TgaImagePlugin.TgaImageFile):
    """Pillow's Targa file. Programs that write 32 bits without alpha leave zeros in the fourth byte."""

    def _open(self) -> None:
        super()._open()
        assert self.fp is not None
        after = self.fp.tell()
        self.fp.seek(17)
        flags = self.fp.read(1)[0]
        self.fp.seek(after)
        if self.mode == "RGBA" and not flags & ALPHA_BITS:
            self._mode = "RGB"
            self.tile = [tile._replace(args=("BGRX", *tile.args[1:])) for tile in self.tile]  # type: ignore[index]
