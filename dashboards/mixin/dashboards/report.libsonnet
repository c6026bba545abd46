// A report for managers: keys by owner, trend of unused keys, created, deleted and exempt keys.
function(config) {
  local panels = import 'panels.libsonnet',
  local queries = (import 'queries.libsonnet')(config),
  local board = (import 'board.libsonnet')(config),

  local number(title, description, expr, color='blue', unit='locale') =
    panels.stat(title, description, expr, { thresholds: panels.steps(color), unit: unit }),
  local figures = [
    number('Keys', 'Number of keys in every status.', 'sum(%s) or vector(0)' % queries.keys),
    number('Unused for $threshold', 'Keys that are idle, never used or disabled for the threshold. Exempt keys are not counted.', '%s or vector(0)' % queries.unused, 'orange'),
    number('Share of unused keys', 'Unused keys as a share of all keys.', '(%s) / (sum(%s) > 0) or vector(0)' % [queries.unused, queries.keys], 'orange', 'percentunit'),
    number('Exempt', 'Keys with an active exemption. Each exemption has a reason and an end date.', 'sum(%s) or vector(0)' % queries.exempt),
    number('Created', 'Keys created in the time range, counted by the hour. The filters Owner and Project have no effect here.', queries.changes('created')),
    number('Deleted', 'Keys deleted in the time range, counted by the hour. The filters Owner and Project have no effect here.', queries.changes('deleted'), 'green'),
  ],
  local trend = panels.timeseries(
    'Unused keys',
    'Keys that are idle, never used or disabled for the threshold. The sum decreases when unused keys are deleted or used again.',
    [
      panels.range('sum(%s)' % queries.class('idle'), 'Idle'),
      panels.range('sum(%s)' % queries.class('never_used'), 'Never used'),
      panels.range('sum(%s)' % queries.class('disabled'), 'Disabled'),
    ],
    { noValue: 'No key has been read yet.' },
    panels.area
  ) {
    fieldConfig+: { overrides: [
      panels.override(name[0], { color: { mode: 'fixed', fixedColor: name[1] } })
      for name in [['Idle', 'orange'], ['Never used', 'purple'], ['Disabled', 'yellow']]
    ] },
  },
  local byOwner = panels.table(
    'Keys by owner',
    'Keys of each owner, most unused keys first. Select an owner to see the keys.',
    'No key has been read yet.',
    [panels.rows(queries.byOwner(expr)) for expr in [queries.keys, queries.class('idle'), queries.class('never_used'), queries.class('disabled'), queries.exempt]],
    [
      ['owner', 'Owner', { links: [board.drillDown('owner', 'owner')] }],
      ['Value #A', 'Keys', panels.count(90)],
      ['Value #B', 'Idle', panels.count(90)],
      ['Value #C', 'Never used', panels.count(110)],
      ['Value #D', 'Disabled', panels.count(100)],
      ['Value #E', 'Exempt', panels.count(90)],
    ],
    ['-Idle']
  ),
  local exemptions = panels.table(
    'Exempt keys',
    "The 50 exempt keys with the earliest end date. The exporter's page shows the reason of each exemption.",
    'No key is exempt.',
    [panels.rows(queries.withProject(queries.withKey('1000 * bottomk(50, %s)' % queries.exemptions)))],
    [
      ['name', 'Key', { links: [board.keyPage] }],
      ['owner', 'Owner', { 'custom.width': 150 }],
      ['project_name', 'Project', { 'custom.width': 190 }],
      ['Value', 'Exempt until', panels.date(120)],
      ['status', 'Status', panels.hidden],
      ['api_key_id', 'Key id', panels.hidden],
      ['project_id', 'Project id', panels.hidden],
      ['org_id', 'Organization id', panels.hidden],
    ],
    ['Exempt until']
  ),

  result: board.dashboard(
    'report',
    'Atlas AI model API keys: report',
    'Monthly report: keys by owner, trend of unused keys, created, deleted and exempt keys.',
    'now-30d',
    ['datasource', 'job', 'instance', 'org', 'owner', 'project', 'threshold', 'exporter'],
    panels.layout([
      [4, [[4, figure] for figure in figures]],
      [9, [[24, trend]]],
      [10, [[12, byOwner], [12, exemptions]]],
    ]),
    '1h'
  ),
}.result
