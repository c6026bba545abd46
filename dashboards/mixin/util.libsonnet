// Helpers of the rules.
{
  // Seconds of a duration such as '90d'.
  seconds(text)::
    local units = { s: 1, m: 60, h: 3600, d: 86400, w: 604800 };
    local unit = text[std.length(text) - 1];
    assert std.objectHas(units, unit) : 'duration without unit s, m, h, d or w: ' + text;
    std.parseInt(std.substr(text, 0, std.length(text) - 1)) * units[unit],

  // The label `threshold` of a duration, as the exporter writes it: in the largest whole unit of d, h, m and s.
  threshold(text)::
    local seconds = self.seconds(text);
    local unit = [unit for unit in [[86400, 'd'], [3600, 'h'], [60, 'm'], [1, 's']] if seconds % unit[0] == 0][0];
    '%d%s' % [seconds / unit[0], unit[1]],

  // '90 days' for '90d'.
  words(text)::
    local number = std.substr(text, 0, std.length(text) - 1);
    local names = { s: 'second', m: 'minute', h: 'hour', d: 'day', w: 'week' };
    number + ' ' + names[text[std.length(text) - 1]] + (if number == '1' then '' else 's'),

  // 'last hour' for '1h', 'last 30 minutes' for '30m'.
  last(text):: 'last ' + (if std.startsWith(self.words(text), '1 ') then std.substr(self.words(text), 2, 10) else self.words(text)),

  // '{a, b}' of the matchers that are not empty, or an empty text.
  selector(matchers)::
    local given = std.filter(function(matcher) matcher != '', matchers);
    if given == [] then '' else '{' + std.join(', ', given) + '}',

  // Statuses of disabled keys, in upper or lower case.
  disabledStatuses:: '(?i)(inactive|disabled|revoked|suspended|expired|deleted)',

  // Adds the project's name and owner to series with `org_id` and `project_id`.
  withProject(expr):: self.join(expr, 'org_id, project_id', 'project_name, owner', 'project:mongodbatlas_project_info:last'),

  // Adds the organization's name to series with `org_id`.
  withOrg(expr):: self.join(expr, 'org_id', 'org_name', 'org:mongodbatlas_organization_info:last'),

  // Multiplies series by an info series of value 1, which adds its labels.
  join(expr, on, labels, info):: |||
    (
      %s
    )
    * on (%s) group_left (%s)
    %s
  ||| % [self.indent(expr), on, labels, info],

  // An expression of several lines, within parentheses.
  indent(expr):: std.strReplace(std.rstripChars(expr, '\n'), '\n', '\n  '),

  // Names for annotations. Empty labels remove the names that the joins added: otherwise a rename starts a new alert.
  projectLabels:: { project_name: '' },
  orgLabels:: { org_name: '' },
  keyLabels:: { name: '', project_name: '' },
  keyName:: '{{ or $labels.name $labels.api_key_id }}',
  projectName:: '{{ or $labels.project_name $labels.project_id }}',
  orgName:: '{{ or $labels.org_name $labels.org_id }}',
  project:: 'project ' + self.projectName + ' (id {{ $labels.project_id }}{{ if $labels.owner }}, owner {{ $labels.owner }}{{ end }}) of organization {{ $labels.org_id }}',
  key:: 'AI model API key ' + self.keyName + ' (id {{ $labels.api_key_id }}) in ' + self.project,
  org:: 'organization ' + self.orgName + ' (id {{ $labels.org_id }})',

  // Text with a capital first letter, for the start of a sentence.
  capital(text):: std.asciiUpper(text[0]) + std.substr(text, 1, std.length(text)),

  // The alert's value with a noun: '1 key', '2 keys'.
  count(noun):: '{{ $value }} ' + noun + '{{ if ne $value 1.0 }}s{{ end }}',

  // A sentence with the results of a query, or nothing if the query has no result. The query is a Go format string: %[1]q is
  // the first of `labels`. `item` formats one result, $item; commas separate the results.
  list(query, labels, before, item, after='.')::
    '{{ with query (printf `' + query + '`' + std.join('', [' $labels.' + label for label in labels]) + ') }}' +
    before + '{{ range $index, $item := . }}{{ if $index }}, {{ end }}' + item + '{{ end }}' + after + '{{ end }}',

  // An alert with the parameters of the configuration; no alert if its entry there is null.
  alert(config, name, rule, severity='')::
    if !std.objectHas(config.alerts, name) || config.alerts[name] == null then [] else
      local parameters = config.alerts[name];
      [{
        alert: name,
        expr: rule.expr,
        [if std.get(parameters, 'for') != null then 'for']: parameters['for'],
        [if std.get(parameters, 'keep_firing_for') != null then 'keep_firing_for']: parameters.keep_firing_for,
        labels: std.get(rule, 'labels', {}) {
          severity: if severity == '' then parameters.severity else parameters.severity[severity],
        },
        annotations: {
          summary: rule.summary,
          description: std.strReplace(std.rstripChars(rule.description, '\n'), '\n', ' '),
          runbook_url: std.strReplace(config.runbookURLPattern, '%s', name),
          [if config.exporterUrl != '' && std.objectHas(rule, 'page') then 'page_url']:
            std.rstripChars(config.exporterUrl, '/') + rule.page,
        },
      }],
}
