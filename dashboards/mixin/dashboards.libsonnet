// The Grafana dashboards of the mixin. The defaults below can be overridden through `_config`; with them,
// `make dashboards` renders dashboards/*.json.
{
  _config+:: {
    // Label matchers added to every query, for example `cluster="prod"`.
    exporterSelector: '',
    // Name of the default data source, and a regular expression that limits the choice.
    datasourceName: 'default',
    datasourceFilterRegex: '',
    dashboardTags: ['atlas-ai-keys'],
    // Uids are PREFIX-fleet, PREFIX-exporter and PREFIX-report.
    dashboardUidPrefix: 'atlas-ai-keys',
    dashboardRefresh: '1m',
    // Threshold selected first; the choice is what the exporter exports.
    dashboardThreshold: '90d',
    // Address of the exporter's page as a browser reaches it; empty: http:// and the `instance` label.
    exporterUrl: '',
    atlasUrl: 'https://cloud.mongodb.com',
  },

  grafanaDashboards+:: {
    'fleet.json': (import 'dashboards/fleet.libsonnet')($._config),
    'exporter.json': (import 'dashboards/exporter.libsonnet')($._config),
    'report.json': (import 'dashboards/report.libsonnet')($._config),
  },
}
