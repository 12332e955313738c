"""Where ranks run: threads of this process."""

from .launch import launch

__all__ = ["launch"]
