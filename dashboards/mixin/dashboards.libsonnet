// The Grafana dashboards of the mixin, with the parameters that concern nothing else.
{
  _config+:: {
    // Name of the default data source, and a regular expression that limits the choice.
    datasourceName: 'default',
    datasourceFilterRegex: '',
    dashboardRefresh: '1m',
    // Threshold selected first; the choice is what the exporter exports.
    dashboardThreshold: '90d',
    // For links to projects.
    atlasUrl: 'https://cloud.mongodb.com',
  },

  grafanaDashboards+:: {
    'fleet.json': (import 'dashboards/fleet.libsonnet')($._config),
    'exporter.json': (import 'dashboards/exporter.libsonnet')($._config),
    'report.json': (import 'dashboards/report.libsonnet')($._config),
  },
}
