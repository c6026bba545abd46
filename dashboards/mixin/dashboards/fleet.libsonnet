// The dashboard of the keys: number, class, and the longest-idle keys by name.
function(config) {
  local panels = import 'panels.libsonnet',
  local queries = (import 'queries.libsonnet')(config),
  local board = (import 'board.libsonnet')(config),

  local number(title, description, expr, defaults={}) = panels.stat(title, description, expr + ' or vector(0)', defaults),
  local class(title, description, name, alert, color) = number(
    title, description, 'sum(%s)' % queries.class(name), { thresholds: panels.steps('green', [[1, color]]), links: [panels.runbook(alert)] }
  ),
  local figures = [
    [3, number('Keys', 'Number of keys in every status. Delete unused keys first: the table below lists the longest-idle keys.', 'sum(%s)' % queries.keys, {
      thresholds: panels.steps('blue'),
      links: [panels.runbook('AtlasAiKeysTooMany')],
    })],
    [3, class('Idle for $threshold', 'Enabled keys that were used before, but not within the threshold. Ask the owners, then delete the keys in Atlas.', 'idle', 'AtlasAiKeysStale', 'orange')],
    [3, class('Never used for $threshold', 'Enabled keys that were never used and are older than the threshold. Ask the owners, then delete the keys in Atlas.', 'never_used', 'AtlasAiKeysNeverUsed', 'orange')],
    [3, class('Disabled for $threshold', 'Disabled keys that are idle for the threshold and not deleted. A disabled key can be enabled again: delete keys that are not needed.', 'disabled', 'AtlasAiKeysDisabledNotDeleted', 'yellow')],
    [2, number('Exempt', 'Keys with an active exemption. Exempt keys are not counted as idle, never used or disabled.', 'sum(%s)' % queries.exempt, {
      thresholds: panels.steps('blue'),
    })],
    [3, number('Exemptions ending', 'Exemptions that end within 14 days. Renew the exemptions in the configuration file, or delete the keys.', 'count(%s - time() < 14 * 86400)' % ('(%s)' % queries.exemptions), {
      thresholds: panels.steps('green', [[1, 'yellow']]),
    })],
    [4, number('Unmatched exemptions', 'Exemptions in the configuration file that match no key. Fix or remove these exemptions.', 'max(%s)' % queries.process('atlas_ai_keys_exporter_exemptions_unmatched'), {
      thresholds: panels.steps('green', [[1, 'yellow']]),
      links: [panels.runbook('AtlasExemptionUnmatched')],
    })],
    [3, panels.stat('Oldest data', 'Time since the last successful poll of the organization with the oldest data. The exporter dashboard shows why polls fail.', 'max(%s)' % queries.dataAge, {
      unit: 's',
      noValue: 'No poll yet',
      thresholds: panels.steps('green', [[6 * 3600, 'yellow'], [2 * 86400, 'red']]),
      links: [panels.runbook('AtlasOrgDataStale')],
    })],
  ],
  local byStatus = panels.timeseries(
    'Keys by status',
    'Number of keys over time. A sudden change indicates a migration, a script, or unauthorized access.',
    [panels.range('label_replace(sum by (status) (%s), "status", "no status", "status", "")' % queries.keys, '{{status}}')],
    { noValue: 'No key has been read yet.' },
    panels.area
  ),
  local byThreshold = panels.bargauge(
    'Unused keys by threshold',
    'Enabled keys that are unused for at least each threshold of --metrics.idle-thresholds. A shorter threshold includes the keys of longer ones.',
    [
      panels.instant('sort_desc(sum by (threshold) (%s))' % queries.class('idle', ''), 'Idle for {{threshold}}'),
      panels.instant('sort_desc(sum by (threshold) (%s))' % queries.class('never_used', ''), 'Never used for {{threshold}}'),
    ],
    { noValue: 'No key has been read yet.' }
  ) {
    fieldConfig+: { overrides: [
      panels.override('/^Idle/', { color: { mode: 'fixed', fixedColor: 'orange' } }, 'byRegexp'),
      panels.override('/^Never/', { color: { mode: 'fixed', fixedColor: 'purple' } }, 'byRegexp'),
    ] },
  },
  local changes = panels.timeseries(
    'Changes',
    'Changes of keys between two polls. Many keys created or deleted at once indicate a migration, a runaway job, or unauthorized access.',
    [panels.range('sum by (change) (max by (org_id, change) (round(increase(%s[$__interval])))) > 0' % queries.org('mongodbatlas_ai_model_api_key_changes_total'), '{{change}}')],
    { noValue: 'No key changed in the time range.', links: [panels.runbook('AtlasAiKeysChurn')] },
    panels.bars
  ) { interval: '1h' },

  local mostIdle = queries.mostIdle(50),
  local idleTable = panels.table(
    'Longest-idle keys',
    'The 50 longest-idle keys without an exemption. Idle time of never-used keys starts at the creation. Ask the owner, then delete the key in Atlas.',
    'No keys, or no per-key series (--metrics.per-key none).',
    [
      panels.rows(queries.withOrg(queries.withProject(queries.withKey('floor(%s / 86400)' % mostIdle)))),
      panels.rows(queries.ofKeys('1000 * ' + queries.key('min', 'created_timestamp_seconds'), mostIdle)),
      panels.rows(queries.ofKeys('1000 * ' + queries.key('max', 'last_used_timestamp_seconds'), mostIdle)),
    ],
    [
      ['name', 'Key', { links: [board.keyPage, board.atlasProject] }],
      ['api_key_id', 'Key id', { 'custom.width': 230, links: [board.keyPage, board.atlasProject] }],
      ['owner', 'Owner', { 'custom.width': 140 }],
      ['project_name', 'Project', { 'custom.width': 190, links: [board.atlasProject] }],
      ['org_name', 'Organization', { 'custom.width': 150 }],
      ['status', 'Status', { 'custom.width': 100 }],
      ['Value #B', 'Created', panels.date(110)],
      ['Value #C', 'Last used', panels.date(110) { noValue: 'never used' }],
      // No colors: the selected threshold decides when a key is idle for too long.
      ['Value #A', 'Idle', panels.days(110)],
      ['project_id', 'Project id', panels.hidden],
      ['org_id', 'Organization id', panels.hidden],
    ],
    ['-Idle']
  ),

  // A table with the number of keys of each owner, project or organization.
  local summary(title, description, sum, name, drillDown, ids=[], names=[]) = panels.table(
    title,
    description,
    'No key has been read yet.',
    [panels.rows(sum(expr)) for expr in [queries.keys, queries.class('idle'), queries.class('never_used'), queries.class('disabled'), queries.exempt]] + names,
    [
      [name[0], name[1], { links: [drillDown] }],
    ] + [[id, id, panels.hidden] for id in ids] + [
      ['Value #A', 'Keys', panels.count(60)],
      ['Value #B', 'Idle', panels.count(50)],
      ['Value #C', 'Never used', panels.count(92)],
      ['Value #D', 'Disabled', panels.count(76)],
      ['Value #E', 'Exempt', panels.count(70)],
    ],
    ['-Keys']
  ),
  local byOwner = summary(
    'Keys by owner',
    'Keys of each owner: the tag of the Atlas project, or `owners` in the configuration file. Select an owner to filter this dashboard.',
    queries.byOwner, ['owner', 'Owner'], board.drillDown('owner', 'owner')
  ),
  local byProject = summary(
    'Keys by project',
    'Keys of each project. Select a project to filter this dashboard, or to open the project in Atlas.',
    function(expr) queries.withProject(queries.byProject(expr)), ['project_name', 'Project'], board.drillDown('project', 'project_id'),
    ['project_id', 'org_id', 'owner']
  ),
  local byOrg = summary(
    'Keys by organization',
    'Keys of each organization. Select an organization to filter this dashboard.',
    function(expr) queries.withOrg(queries.byOrg(expr)), ['org_name', 'Organization'], board.drillDown('org', 'org_id'), ['org_id']
  ),
  local exemptions = panels.table(
    'Exempt keys',
    'The 50 exempt keys with the earliest end date. The exporter\'s page shows the reason of each exemption.',
    'No key is exempt.',
    [
      panels.rows(queries.withProject(queries.withKey('floor((bottomk(50, %s) - time()) / 86400)' % queries.exemptions))),
      panels.rows('1000 * bottomk(50, %s)' % queries.exemptions),
    ],
    [
      ['name', 'Key', { links: [board.keyPage, board.atlasProject] }],
      ['api_key_id', 'Key id', { 'custom.width': 230, links: [board.keyPage, board.atlasProject] }],
      ['owner', 'Owner', { 'custom.width': 140 }],
      ['project_name', 'Project', { 'custom.width': 190 }],
      ['status', 'Status', { 'custom.width': 100 }],
      ['Value #B', 'Exempt until', panels.date(120)],
      ['Value #A', 'Ends in', panels.days(110) {
        'custom.cellOptions': { type: 'color-text' },
        thresholds: panels.steps('orange', [[3, 'yellow'], [14, 'green']]),
      }],
      ['project_id', 'Project id', panels.hidden],
      ['org_id', 'Organization id', panels.hidden],
    ],
    ['Exempt until']
  ),
  local limits = panels.table(
    'Rate limits of the models',
    'Requests and tokens that Atlas allows an organization in each minute. Requests above a limit are rejected: ask MongoDB for a higher limit before a launch.',
    'Rate limits are unknown.',
    [panels.rows('max by (model_group) (%s)' % queries.org('mongodbatlas_ai_model_rate_limit_%s_per_minute' % unit)) for unit in ['requests', 'tokens']],
    [
      ['model_group', 'Models'],
      ['Value #A', 'Requests', panels.count(95)],
      ['Value #B', 'Tokens', panels.count(105)],
    ],
    ['Models']
  ),

  result: board.dashboard(
    'fleet',
    'Atlas AI model API keys',
    'AI model API keys of MongoDB Atlas: their number, class, age and idle time.',
    'now-7d',
    ['datasource', 'job', 'instance', 'org', 'owner', 'project', 'threshold', 'exporter'],
    panels.layout([
      [4, figures],
      [7, [[8, byStatus], [8, byThreshold], [8, changes]]],
      [9, [[24, idleTable]]],
      [7, [[8, byOwner], [8, byProject], [8, byOrg]]],
      [7, [[17, exemptions], [7, limits]]],
    ])
  ),
}.result
