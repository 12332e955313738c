"""Where ranks run: threads of this process, or processes of their own."""

from .launch import launch
from .remote import RemoteRun, SavedRun, attach

__all__ = ["RemoteRun", "SavedRun", "attach", "launch"]
