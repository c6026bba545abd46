// Parameters of the rules and dashboards. Change them from outside, without editing this file:
//   jsonnet -S -m OUT --tla-code 'config={exporterSelector: "job=\"atlas-ai-keys\""}' dashboards/mixin/render.jsonnet
// or, from a mixin of your own: (import 'mixin.libsonnet') { _config+:: { tooManyKeys: 200 } }
{
  _config+:: {
    // Label matchers of the exporters' series, for a Prometheus that scrapes several deployments:
    // 'job="atlas-ai-keys"' or 'cluster="eu", job=~"atlas-.*"'. Empty: every exporter.
    exporterSelector: '',
    // Value of `instance` on the targets of single organizations, as /sd makes them: ADDRESS/ORG.
    organizationInstances: '.+/.+',

    // Where runbooks are; %s is the name of the alert. By default the path where the packages install them;
    // 'https://exporter.example/-/docs/runbooks/%s' for the exporter's own pages.
    runbookURLPattern: '/usr/share/doc/atlas-ai-keys-exporter/runbooks/%s.md',
    // Address of the exporter's page, as people reach it. If set, alerts have a link to the keys: annotation page_url.
    // Dashboards link to the page in any case: to http:// and the label `instance`, if this is empty.
    exporterUrl: '',

    // Idle thresholds that the rules read: each must be in --metrics.idle-thresholds, in any unit ('2w' is the label '14d').
    staleThreshold: '90d',
    neverUsedThreshold: '30d',
    disabledThreshold: '30d',
    // Keys of an organization.
    tooManyKeys: 1000,
    // Keys of an organization created or deleted within churnWindow.
    churnKeys: 100,
    churnWindow: '1h',
    // How long an alert reports a key that is used again after the largest idle threshold.
    revivedWindow: '1h',

    // Data age of an organization: the larger of a minimum age and a multiple of the poll interval in force.
    dataStale: {
      warning: { minimum: '6h', intervals: 3 },
      critical: { minimum: '2d', intervals: 6 },
    },
    // Poll interval in force, as a multiple of the configured one.
    requestBudgetIntervals: 2,
    // Days before a client secret expires.
    clientSecretDays: { warning: 30, critical: 7 },
    // A client secret used within this time is in use.
    clientSecretUsedWithin: '1d',
    // Failed and successful token requests are counted over this time.
    tokenWindow: '10m',
    // Remaining lifetime of an access token.
    tokenLifetime: '1m',

    // Series that are missing for less than this (failed scrapes, a restart) count as unchanged.
    gapTolerance: '15m',
    // Names and owners of projects and organizations are remembered for this long.
    // Longer than several of the exporter's hourly refreshes: with the owner, an alert has its route.
    infoTolerance: '1d',
    // Exporters that are down, and failing token requests, are remembered over a gap of this length.
    stateTolerance: '1d',
    // An exporter is down if less than this share of the scrapes within downWindow succeeded, until none has failed for
    // downRecovery. The window is long enough for a crash loop that is up half of the time.
    downRatio: 0.65,
    downWindow: '30m',
    downRecovery: '10m',
    // Exporters of a job that were there for absentAfter are missed for stateTolerance.
    absentAfter: '1h',

    // Optional alerts about single keys (atlas-ai-keys-per-key.yml).
    perKey: {
      createdWindow: '1d',
      revivedWindow: '6h',
      // A key that was used at least every `period` for `history`, and then not for a `period`.
      quiet: { period: '1d', history: '7d', step: '1h', interval: '5m' },
    },
    // Whether `prometheusAlerts` and `prometheusRules` of this mixin contain the optional alerts.
    perKeyAlerts: false,

    // Severity, `for` and `keep_firing_for` of each alert. `for` is longer than two polls at the default interval,
    // `keep_firing_for` longer than a restart. Events have no `for`. `null` leaves a line out, and an alert whose
    // entry is null is left out altogether.
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
      // Two severities: see dataStale and clientSecretDays.
      AtlasOrgDataStale: lasting { severity: { warning: 'warning', critical: 'critical' } },
      AtlasRequestBudgetTooSmall: lasting { severity: 'warning', 'for': '1h' },

      // 11 minutes of downWindow and `for`: 16 minutes in all.
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

    // Dashboards; dashboards.libsonnet has the parameters that concern nothing else. Uids are PREFIX-fleet, PREFIX-exporter and
    // PREFIX-report.
    dashboardTags: ['atlas-ai-keys'],
    dashboardUidPrefix: 'atlas-ai-keys',
  },
}
