"""The classes of `modal.types` that nothing makes yet: they can be imported, for annotations; using one says that it is missing."""

from typing import Any

from squall.sdk.unsupported import unsupported_class

NAMES = frozenset({
    "AppInfo", "AppLifecycle", "AppState", "AppStats", "BillingReportItem", "EnvironmentBillingSummary", "FileInfo", "FileType", "FileWatchEvent",
    "FileWatchEventType", "FunctionInfo", "FunctionStats", "MemberTokenInfo", "MetricDefinition", "MetricSeries", "MetricsSchema",
    "ObjectMetrics", "ProxyTokenInfo", "SandboxConnectCredentials", "SandboxGroupStats", "SandboxStats", "ServerContainerInfo",
    "ServerInfo", "ServerSessionCredentials", "ServerStats", "ServiceUserInfo", "StatsPercentile", "StatsPercentileDistribution", "TimeSeriesPoint",
    "TokenData", "WorkspaceBillingReportItem", "WorkspaceBillingSummary", "WorkspaceMemberInfo", "WorkspaceSettings",
})  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = unsupported_class(name, __name__)
    return made
