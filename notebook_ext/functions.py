"""Modal's import path: `nb.functions.{Function, FunctionCall, FunctionStats, gather}`."""

from __future__ import annotations

from notebook_ext.autoscaler import FunctionStats
from notebook_ext.call import FunctionCall
from notebook_ext.function import Function
from notebook_ext.gather import gather

__all__ = ["Function", "FunctionCall", "FunctionStats", "gather"]
