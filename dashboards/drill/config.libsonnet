// Parameters of the rules for a drill: alerts fire after seconds, and conditions that take hours are reached in seconds.
local defaults = (import '../mixin/config.libsonnet')._config;
{
  perKeyAlerts: true,
  alerts: {
    [name]: defaults.alerts[name] { 'for': '3s', keep_firing_for: '3s' }
    for name in std.objectFields(defaults.alerts)
  },
  dataStale: {
    warning: { minimum: '10s', intervals: 3 },
    critical: { minimum: '30s', intervals: 6 },
  },
  gapTolerance: '15s',
  downWindow: '6s',
  tokenWindow: '15s',
  tokenLifetime: '1s',
}
