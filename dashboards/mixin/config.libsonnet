// Parameters of the rules and dashboards. Set them from outside, without editing this file:
//   jsonnet -S -m OUT --tla-code 'config={exporterSelector: "job=\"atlas-ai-keys\""}' dashboards/mixin/render.jsonnet
// or, from a mixin of your own: (import 'mixin.libsonnet') { _config+:: { tooManyKeys: 200 } }
{
  _config+:: {
    // Label matchers that select the exporters' series, for a Prometheus that scrapes several deployments:
    // 'job="atlas-ai-keys"' or 'cluster="eu", job=~"atlas-.*"'. Empty selects every exporter.
    exporterSelector: '',
    // Regular expression for `instance` of single organizations' targets, which /sd names ADDRESS/ORG.
    organizationInstances: '.+/.+',

    // Location of the runbooks; %s is the name of the alert. The default is the path where the packages install them. For the
    // pages of the exporter, set 'https://exporter.example/-/docs/runbooks/%s'.
    runbookURLPattern: '/usr/share/doc/atlas-ai-keys-exporter/runbooks/%s.md',
    // Address of the exporter's page in a browser. If set, alerts have the annotation page_url with a link to the keys.
    // Dashboards always link to the page; if this is empty, to http:// and the label `instance`.
    exporterUrl: '',

    // Idle thresholds that the rules need. Each must be in --metrics.idle-thresholds, in any unit ('2w' is the label '14d').
    staleThreshold: '90d',
    neverUsedThreshold: '30d',
    disabledThreshold: '30d',
    // Maximum number of keys in an organization.
    tooManyKeys: 1000,
    // Maximum number of an organization's keys created or deleted within churnWindow.
    churnKeys: 100,
    churnWindow: '1h',
    // Time for which an alert reports a key that was used again after the largest idle threshold.
    revivedWindow: '1h',

    // Maximum data age of an organization: the larger of a minimum age and a multiple of the effective poll interval.
    dataStale: {
      warning: { minimum: '6h', intervals: 3 },
      critical: { minimum: '2d', intervals: 6 },
    },
    // Maximum effective poll interval, as a multiple of the configured one.
    requestBudgetIntervals: 2,
    // Days before the expiry of a client secret.
    clientSecretDays: { warning: 30, critical: 7 },
    // A client secret that was used within this time counts as in use.
    clientSecretUsedWithin: '1d',
    // Time over which failed and successful token requests are counted.
    tokenWindow: '10m',
    // Minimum remaining lifetime of a valid access token.
    tokenLifetime: '1m',

    // Series that are missing for less than this time (failed scrapes, a restart) count as unchanged.
    gapTolerance: '15m',
    // Time for which the last names and owners of projects and organizations stay in use. Longer than several of the exporter's
    // hourly refreshes, because Alertmanager routes an alert by its owner.
    infoTolerance: '1d',
    // Time for which exporters that are down, and failing token requests, stay known without new samples.
    stateTolerance: '1d',
    // An exporter is down if less than downRatio of the scrapes within downWindow succeeded, until no scrape has failed for
    // downRecovery. The window is long enough to detect a crash loop that is up half of the time.
    downRatio: 0.65,
    downWindow: '30m',
    downRecovery: '10m',
    // An alert reports missing exporters of a job for stateTolerance, if they were present for absentAfter.
    absentAfter: '1h',

    // Optional alerts about single keys (atlas-ai-keys-per-key.yml).
    perKey: {
      createdWindow: '1d',
      revivedWindow: '6h',
      // A key that was used at least once every `period` for `history`, and then not for a `period`.
      quiet: { period: '1d', history: '7d', step: '1h', interval: '5m' },
    },
    // Whether `prometheusAlerts` and `prometheusRules` of this mixin contain the optional alerts.
    perKeyAlerts: false,

    // Severity, `for` and `keep_firing_for` of each alert. `for` is longer than two polls at the default interval, and
    // `keep_firing_for` is longer than a restart. Events have no `for`. The value `null` removes a field, and an entry `null`
    // removes the alert.
    alerts: {
      local lasting = { 'for': '15m', keep_firing_for: '15m' },
      local event = { keep_firing_for: '15m' },

      AtlasAiKeysStale: lasting { severity: 'warning' },
      AtlasAiKeysNeverUsed: lasting { severity: 'warning' },
      AtlasAiKeysDisabledNotDeleted: lasting { severity: 'info' },
      AtlasAiKeysRevived: event { severity: 'warning' },
      AtlasAiKeysTooMany: lasting { severity: 'info' },
      AtlasAiKeysChurn: lasting { severity: 'warning' },

      AtlasOrgAccessDenied: lasting { severity: 'warning' },
      AtlasOrgPollFailing: lasting { severity: 'info', 'for': '1h' },
      // Alerts with two severities read their limits from dataStale and clientSecretDays.
      AtlasOrgDataStale: lasting { severity: { warning: 'warning', critical: 'critical' } },
      AtlasRequestBudgetTooSmall: lasting { severity: 'warning', 'for': '1h' },

      // 11 minutes of downWindow and 5 minutes of `for`: 16 minutes in total.
      AtlasAiKeysExporterDown: { severity: 'warning', 'for': '5m' },
      AtlasAiKeysExporterAbsent: { severity: 'warning', 'for': '15m' },
      AtlasAiKeysConfigBad: lasting { severity: 'warning' },
      AtlasAiKeysStorageFailing: lasting { severity: 'warning' },
      AtlasAiKeysDropped: lasting { severity: 'warning' },
      AtlasTokenTrouble: lasting { severity: 'warning' },
      AtlasClientSecretExpiring: lasting { severity: { warning: 'warning', critical: 'critical' } },
      AtlasExemptionUnmatched: lasting { severity: 'info', 'for': '1h' },

      AtlasAiKeyStale: lasting { severity: 'warning' },
      AtlasAiKeyNeverUsed: lasting { severity: 'warning' },
      AtlasAiKeyRevived: event { severity: 'warning' },
      AtlasAiKeyCreated: event { severity: 'info' },
      AtlasAiKeyWentQuiet: event { severity: 'info' },
    },

    // Metadata of the Kubernetes manifests.
    manifestName: 'atlas-ai-keys',
    manifestLabels: { 'app.kubernetes.io/name': 'atlas-ai-keys-exporter' },

    // Tags and uids of the dashboards. The uids are PREFIX-fleet, PREFIX-exporter and PREFIX-report. More parameters of the
    // dashboards are in dashboards.libsonnet.
    dashboardTags: ['atlas-ai-keys'],
    dashboardUidPrefix: 'atlas-ai-keys',
  },
}
