// Renders the dashboards: jsonnet -S -m dashboards [--tla-code 'config={exporterUrl: "https://keys.example"}'] FILE
function(config={})
  local mixin = (import 'dashboards.libsonnet') { _config:: std.mergePatch(super._config, config) };
  { [name]: std.manifestJsonEx(mixin.grafanaDashboards[name], '  ') for name in std.objectFields(mixin.grafanaDashboards) }
