// Parameters of the mixin for the drill: alerts fire and resolve within seconds.
local alerts = (import '../mixin/config.libsonnet')._config.alerts;
local short(alert) = {
  [field]: '4s'
  for field in ['for', 'keep_firing_for']
  if std.get(alert, field) != null
};
{
  alerts: { [name]: short(alerts[name]) for name in std.objectFields(alerts) if alerts[name] != null },
  dataStale: {
    warning: { minimum: '20s', intervals: 3 },
    critical: { minimum: '30s', intervals: 6 },
  },
  revivedWindow: '20s',
  churnWindow: '20s',
  // Longer than downWindow plus the `for` of AtlasAiKeysExporterDown, so that the alerts that it inhibits still fire.
  gapTolerance: '20s',
  infoTolerance: '1m',
  downRatio: 0.5,
  downWindow: '5s',
  downRecovery: '5s',
  perKey: {
    createdWindow: '20s',
    revivedWindow: '20s',
    quiet: { period: '5s', history: '15s', step: '1s', interval: '1s' },
  },
}
