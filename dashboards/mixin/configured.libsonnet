// The mixin with other parameters. An unknown parameter or alert is an error: otherwise a typo would leave the default active.
local mixin = import 'mixin.libsonnet';
local alertFields = { severity: '', 'for': '', keep_firing_for: '' };

// Paths of the given parameters that have no default.
local unknown(given, default, path) = std.flattenArrays([
  if !std.objectHas(default, name) then [path + name]
  else if path == 'alerts.' then (
    if std.isObject(given[name]) then unknown(given[name], alertFields, path + name + '.') else []
  )
  else if std.isObject(given[name]) && std.isObject(default[name]) then unknown(given[name], default[name], path + name + '.')
  else []
  for name in std.objectFields(given)
]);

function(config)
  local unknownParameters = unknown(config, mixin._config, '');
  assert unknownParameters == [] : 'unknown parameters: ' + std.join(', ', unknownParameters);
  mixin { _config:: std.mergePatch(super._config, config) }
