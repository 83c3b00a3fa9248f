"""For tests: contract suites that every plug-in passes, ours and yours.

Each is a base class for pytest (with pytest-asyncio) to be subclassed next to
the plug-in: `pymicro.testing.registry.RegistryContract`,
`pymicro.testing.balancer.BalancerContract`,
`pymicro.testing.selector.SelectorContract`. Only these modules import pytest.
"""
