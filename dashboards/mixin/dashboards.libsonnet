// The Grafana dashboards of the mixin.
{
  grafanaDashboards+:: {},
}
