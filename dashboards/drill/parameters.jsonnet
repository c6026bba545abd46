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
  revivedWindow: '12s',
  churnWindow: '12s',
  // The churn scenario changes six keys within churnWindow at normal speed, and the largest other case less than one at speed 20.
  churnKeys: 5,
  // Longer than downWindow plus the `for` of AtlasAiKeysExporterDown, so that the alerts that it inhibits still fire.
  gapTolerance: '15s',
  infoTolerance: '1m',
  downRatio: 0.5,
  downWindow: '5s',
  downRecovery: '5s',
  perKey: {
    createdWindow: '12s',
    revivedWindow: '12s',
    // Each step of the history is evaluated for every key: longer steps save most of the CPU time of the drill.
    quiet: { period: '8s', history: '6s', step: '3s', interval: '3s' },
  },
}
