// The mixin with other parameters. A parameter or an alert that does not exist is an error: without it, a typing error would
// leave the default in force.
local mixin = import 'mixin.libsonnet';
local alertFields = { severity: '', 'for': '', keep_firing_for: '' };

// Paths of the parameters that are not among the defaults.
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
  local wrong = unknown(config, mixin._config, '');
  assert wrong == [] : 'unknown parameters: ' + std.join(', ', wrong);
  mixin { _config:: std.mergePatch(super._config, config) }
