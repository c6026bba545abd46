// The Grafana dashboards of the mixin, and the parameters that only the dashboards use.
{
  _config+:: {
    // Name of the data source selected first, and a regular expression that filters the data sources.
    datasourceName: 'default',
    datasourceFilterRegex: '',
    dashboardRefresh: '1m',
    // Threshold selected first. The exporter's --metrics.idle-thresholds are the choices.
    dashboardThreshold: '90d',
    // Address of Atlas, for links to projects.
    atlasUrl: 'https://cloud.mongodb.com',
  },

  grafanaDashboards+:: {
    'fleet.json': (import 'dashboards/fleet.libsonnet')($._config),
    'exporter.json': (import 'dashboards/exporter.libsonnet')($._config),
    'report.json': (import 'dashboards/report.libsonnet')($._config),
  },
}
