// Prints YAML. In jsonnet 0.18, std.manifestYamlDoc takes half a minute for these rules and sorts `alert` behind `annotations`.
local order = ['name', 'interval', 'alert', 'record', 'expr', 'for', 'keep_firing_for', 'labels', 'annotations', 'rules'];
local keys(value) =
  local all = std.objectFields(value);
  std.filter(function(key) std.member(all, key), order) + std.filter(function(key) !std.member(order, key), all);
local quote(value) =
  local list = std.toString([value]);
  std.substr(list, 1, std.length(list) - 2);
{
  // Prints an object, an array or a scalar, with `indent` before every line but the first. A text that ends with a line break
  // becomes a block.
  manifest(value, indent)::
    local deeper = indent + '  ';
    local field(value) =
      if std.isObject(value) && value != {} then '\n' + deeper + $.manifest(value, deeper)
      else if std.isArray(value) && value != [] then '\n' + deeper + $.manifest(value, deeper)
      else if std.isString(value) && std.endsWith(value, '\n') then
        ' |\n' + deeper + std.join('\n' + deeper, std.split(std.substr(value, 0, std.length(value) - 1), '\n'))
      else ' ' + quote(value);
    if std.isObject(value) then std.join('\n' + indent, [key + ':' + field(value[key]) for key in keys(value)])
    else if std.isArray(value) then std.join('\n' + indent, ['- ' + $.manifest(item, deeper) for item in value])
    else quote(value),
}
