"""One form of interceptor for all four call shapes, on each side."""

from __future__ import annotations

from pymicro.interceptors.base import InterceptedCall, Interceptor, Mapper, Proceed

__all__ = ["InterceptedCall", "Interceptor", "Mapper", "Proceed"]
