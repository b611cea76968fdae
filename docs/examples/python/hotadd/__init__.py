"""A small typed client of hotadd.v1. The stubs below `hotadd.v1` are made by `generate`; everything else is in `client`."""

from .client import Agent, Block, HotaddError, Opened, Session

__all__ = ["Agent", "Block", "HotaddError", "Opened", "Session"]
