// The dashboard of the exporter: state and data age of each organization, rate limits, and resource use.
function(config) {
  local panels = import 'panels.libsonnet',
  local queries = (import 'queries.libsonnet')(config),
  local board = (import 'board.libsonnet')(config),

  local own(name, more=[]) = queries.process('atlas_ai_keys_exporter_' + name, more),
  local ofOrg(name, more=[]) = queries.org('atlas_ai_keys_exporter_' + name, more),

  // Expiry of each credential's secret in use: a secret used within a day, or else the one that expires last.
  local secretExpiry = 'max by (credential, secret_id) (%s)' % own('client_secret_expiry_timestamp_seconds'),
  local secretLastUsed = 'max by (credential, secret_id) (%s)' % own('client_secret_last_used_timestamp_seconds'),
  local usedSecretExpiry = 'min by (credential) (%s and on (credential, secret_id) (%s > time() - 86400)) or on (credential) max by (credential) (%s)' %
                           [secretExpiry, secretLastUsed, secretExpiry],
  local budgetLeft = 'min by (org_id) (%s / on (job, instance, operation, org_id) (%s > 0))' % [
    ofOrg('api_rate_limit_remaining', ['operation="ai_model_api_keys"']),
    ofOrg('api_rate_limit_capacity', ['operation="ai_model_api_keys"']),
  ],
  // A series with the name of its organization.
  local named(expr) = queries.withOrg('(%s)' % expr),
  local perOrg(title, description, expr, unit, empty='No poll has finished yet.') = panels.timeseries(
    title, description, [panels.range(named(expr), '{{org_name}}')], { unit: unit, noValue: empty }
  ),

  local states(texts) = [{ type: 'value', options: {
    [value]: { text: texts[value][0], color: texts[value][1], index: std.parseInt(value) }
    for value in std.objectFields(texts)
  } }],
  local figures = [
    [4, panels.stat('Organizations failing', 'Number of organizations with a failed last poll. The table below shows the reason.', 'count(max by (org_id) (%s) == 0) or vector(0)' % ofOrg('org_up'), {
      thresholds: panels.steps('green', [[1, 'red']]),
      links: [panels.runbook('AtlasOrgPollFailing'), panels.runbook('AtlasOrgAccessDenied')],
    })],
    [3, panels.stat('Oldest data', 'Time since the last successful poll of the organization with the oldest data. More than two poll intervals: polls fail or wait for the rate limit.', 'max(%s)' % queries.dataAge, {
      unit: 's',
      noValue: 'No poll yet',
      thresholds: panels.steps('green', [[6 * 3600, 'yellow'], [2 * 86400, 'red']]),
      links: [panels.runbook('AtlasOrgDataStale')],
    })],
    [3, panels.stat('Failed polls (1h)', 'Polls that failed within the last hour. Occasional failures are expected; investigate a sustained rate.', 'sum(max by (org_id, reason) (round(increase(%s[1h])))) or vector(0)' % ofOrg('org_poll_failures_total'), {
      thresholds: panels.steps('green', [[1, 'yellow'], [10, 'red']]),
      links: [panels.runbook('AtlasOrgPollFailing')],
    })],
    [4, panels.stat('Rate limit remaining', 'Remaining share of the rate limit for listing keys, for the organization with the least. Near zero: polls wait, or other clients use the limit.', 'min(%s)' % budgetLeft, {
      unit: 'percentunit',
      noValue: 'unknown',
      thresholds: panels.steps('red', [[0.1, 'yellow'], [0.3, 'green']]),
      links: [panels.runbook('AtlasRequestBudgetTooSmall')],
    })],
    [4, panels.stat('Client secret expires in', "Time until the exporter's client secret expires. Create a new secret in Atlas before the expiry.", 'floor((min(%s) - time()) / 86400)' % usedSecretExpiry, {
      unit: 'suffix:days',
      decimals: 0,
      noValue: 'unknown',
      thresholds: panels.steps('red', [[7, 'yellow'], [30, 'green']]),
      links: [panels.runbook('AtlasClientSecretExpiring')],
    })],
    [3, panels.stat('Configuration', 'Result of the last reload. Invalid: the previous configuration stays active, and the next start will fail; the log lists every error.', 'min(%s)' % own('config_last_reload_successful'), {
      mappings: states({ '0': ['invalid', 'red'], '1': ['loaded', 'green'] }),
      noValue: 'unknown',
      links: [panels.runbook('AtlasAiKeysConfigBad')],
    })],
    [3, panels.stat('State directory', 'Result of the last write to the state directory. Failing: a restart loses the data since the last successful write.', 'max(%s)' % own('storage_last_write_failed'), {
      mappings: states({ '0': ['saved', 'green'], '1': ['failing', 'red'] }),
      noValue: 'none',
      links: [panels.runbook('AtlasAiKeysStorageFailing')],
    })],
  ],

  local failures = panels.timeseries(
    'Failed polls by reason',
    'Number of failed polls. The reasons unauthorized, forbidden and not_found last until the credential or the configuration changes.',
    [panels.range('sum by (reason) (max by (org_id, reason) (round(increase(%s[$__interval])))) > 0' % ofOrg('org_poll_failures_total'), '{{reason}}')],
    { noValue: 'No poll failed in the time range.', links: [panels.runbook('AtlasOrgPollFailing')] },
    panels.bars
  ) { interval: '10m' },
  local throttling = panels.timeseries(
    'Time waiting for the rate limit',
    'Share of time that polls wait for the rate limit of an operation. More than half: increase --atlas.poll-interval.',
    [panels.range('max by (operation) (sum by (job, instance, operation) (rate(%s[$__rate_interval])))' % own('api_throttled_seconds_total'), '{{operation}}')],
    { unit: 'percentunit', noValue: 'No request was throttled in the time range.', links: [panels.runbook('AtlasRequestBudgetTooSmall')] },
    { axisSoftMax: 1 }
  ),
  local requests = panels.timeseries(
    'Requests to Atlas',
    'Requests by status code, and retries. 429: rate limited; 5xx: Atlas is unavailable; a word instead of a code: network error.',
    [
      panels.range('sum by (code) (rate(%s[$__rate_interval])) > 0' % own('api_requests_total'), '{{code}}'),
      panels.range('sum(rate(%s[$__rate_interval])) > 0' % own('api_retries_total'), 'retries'),
    ],
    { unit: 'reqps', noValue: 'No request was sent in the time range.' }
  ),
  local duration = panels.timeseries(
    'Request duration',
    'Duration of requests to Atlas: median and 95th percentile. Slow responses make polls slow.',
    [
      panels.range('histogram_quantile(%s, sum by (le) (rate(%s[$__rate_interval])))' % [quantile[0], own('api_request_duration_seconds_bucket')], quantile[1])
      for quantile in [['0.5', 'p50'], ['0.95', 'p95']]
    ],
    { unit: 's', noValue: 'No request was sent in the time range.' }
  ),
  local tokens = panels.timeseries(
    'Access token requests',
    'Requests for access tokens by outcome. More than two tokens issued per hour and credential: the exporter restarts repeatedly.',
    [panels.range('sum by (credential, outcome) (round(increase(%s[$__interval]))) > 0' % own('token_requests_total'), '{{credential}}: {{outcome}}')],
    { noValue: 'No access token was requested in the time range.', links: [panels.runbook('AtlasTokenTrouble')] },
    panels.bars
  ) { interval: '1h' },
  local scrape = panels.timeseries(
    'Scrape duration and samples',
    'Duration of scrapes (left) and number of samples (right). Too many samples: set --metrics.per-key idle.',
    [
      panels.range('max by (instance) (%s)' % queries.process('scrape_duration_seconds'), '{{instance}}'),
      panels.range('max by (instance) (%s)' % queries.process('scrape_samples_scraped'), 'samples of {{instance}}'),
    ],
    { unit: 's', noValue: 'No scrape has finished yet.' }
  ) { fieldConfig+: { overrides: [panels.override('/^samples/', { unit: 'short', 'custom.axisPlacement': 'right' }, 'byRegexp')] } },
  local process = panels.timeseries(
    'Memory and CPU',
    'Resident memory (left) and CPU cores (right) of the exporter. Memory depends on the number of keys and does not grow over time.',
    [
      panels.range('max by (instance) (%s)' % queries.process('process_resident_memory_bytes'), '{{instance}}'),
      panels.range('max by (instance) (rate(%s[$__rate_interval]))' % queries.process('process_cpu_seconds_total'), 'cores of {{instance}}'),
    ],
    { unit: 'bytes', noValue: 'No scrape has finished yet.' }
  ) { fieldConfig+: { overrides: [panels.override('/^cores/', { unit: 'short', 'custom.axisPlacement': 'right' }, 'byRegexp')] } },

  local orgs = panels.table(
    'Organizations',
    'State of each organization. Select an organization to see its keys.',
    'No organization is watched yet.',
    [
      panels.rows('max by (org_id, org_name) %s' % queries.orgInfo),
      panels.rows('max by (org_id, reason) (%s) == 1 or on (org_id) label_replace(max by (org_id) (%s) == 1, "reason", "succeeded", "", "")' % [
        ofOrg('org_last_poll_failed'),
        ofOrg('org_up'),
      ]),
      panels.rows(queries.dataAge),
      panels.rows('time() - max by (org_id) (%s)' % ofOrg('org_last_attempt_timestamp_seconds')),
      panels.rows('max by (org_id) (%s)' % ofOrg('org_poll_interval_seconds')),
      panels.rows('max by (org_id) (%s)' % ofOrg('org_configured_poll_interval_seconds')),
      panels.rows('max by (org_id) (%s)' % ofOrg('org_poll_pages')),
      panels.rows('max by (org_id) (%s)' % ofOrg('org_inventory_restored')),
      panels.rows('max by (org_id) (%s)' % ofOrg('keys_dropped')),
    ],
    [
      ['org_name', 'Organization', { links: [board.drillDown('org', 'org_id', keeps=['datasource', 'job', 'instance', 'exporter'])] }],
      ['org_id', 'Organization id', { 'custom.width': 235 }],
      ['reason', 'Last poll', {
        'custom.width': 140,
        'custom.cellOptions': { type: 'color-text' },
        noValue: 'none yet',
        mappings: [
          { type: 'value', options: { succeeded: { color: 'green', index: 0 } } },
          { type: 'regex', options: { pattern: '.+', result: { color: 'red', index: 1 } } },
        ],
      }],
      ['Value #C', 'Data age', { unit: 's', 'custom.width': 100, 'custom.align': 'right', noValue: 'no data' }],
      ['Value #D', 'Last attempt', { unit: 's', 'custom.width': 110, 'custom.align': 'right', noValue: 'none' }],
      ['Value #E', 'Poll interval', { unit: 's', 'custom.width': 115, 'custom.align': 'right' }],
      ['Value #F', 'Configured', { unit: 's', 'custom.width': 105, 'custom.align': 'right' }],
      ['Value #G', 'Pages', panels.count(75)],
      ['Value #I', 'Dropped', panels.count(85) { 'custom.cellOptions': { type: 'color-text' }, thresholds: panels.steps('text', [[1, 'orange']]) }],
      ['Value #H', 'Data from', {
        'custom.width': 100,
        mappings: states({ '0': ['Atlas', 'text'], '1': ['restored', 'yellow'] }),
      }],
    ],
    ['-Data age']
  ),
  local exporters = panels.table(
    'Exporters',
    'Running exporters, with the time of the last successful reload and the number of failed writes to the state directory.',
    'No exporter is scraped.',
    [
      panels.rows('max by (instance, version, revision) (%s)' % own('build_info')),
      panels.rows('1000 * max by (instance) (%s)' % own('config_last_reload_success_timestamp_seconds')),
      panels.rows('max by (instance) (%s)' % own('storage_failures_total')),
    ],
    [
      ['instance', 'Instance'],
      ['version', 'Version', { 'custom.width': 70 }],
      ['revision', 'Revision', { 'custom.width': 125 }],
      ['Value #B', 'Config loaded', { unit: 'dateTimeAsIso', 'custom.width': 160 }],
      ['Value #C', 'Storage failures', panels.count(120)],
    ],
    ['Instance']
  ),
  local credentials = panels.table(
    'Credentials',
    "Access tokens and client secrets of the exporter's service accounts. Create a new secret in Atlas before the one in use expires.",
    'No credential with an expiry (API keys do not expire).',
    [
      panels.rows('1000 * (%s)' % secretExpiry),
      panels.rows('1000 * (%s)' % secretLastUsed),
      panels.rows('floor((%s - time()) / 86400)' % secretExpiry),
      panels.rows('min by (credential) (%s) - time()' % own('token_expiry_timestamp_seconds')),
    ],
    [
      ['credential', 'Credential'],
      ['secret_id', 'Secret id', { 'custom.width': 230 }],
      ['Value #A', 'Secret expires', panels.date(120)],
      ['Value #B', 'Last used', panels.date(105)],
      ['Value #C', 'Expires in', panels.days(100) {
        'custom.cellOptions': { type: 'color-text' },
        thresholds: panels.steps('red', [[7, 'yellow'], [30, 'green']]),
      }],
      ['Value #D', 'Token expires in', { unit: 's', 'custom.width': 130, 'custom.align': 'right' }],
    ],
    ['Secret expires']
  ),

  result: board.dashboard(
    'exporter',
    'Atlas AI keys exporter',
    'State of the exporter: access to each organization, data age, rate limits and resource use.',
    'now-24h',
    ['datasource', 'job', 'instance', 'org', 'exporter'],
    panels.layout([
      [4, figures],
      [6, [[24, orgs]]],
      [7, [
        [8, perOrg('Data age', 'Time since the last successful poll of each organization. Normally a sawtooth with the height of the poll interval.', queries.dataAge, 's')],
        [8, failures],
        [8, perOrg('Poll duration', 'Duration of polls. Longer than before: more keys, slow responses of Atlas, or waiting for the rate limit.', 'max by (org_id) (%s)' % ofOrg('org_poll_duration_seconds'), 's')],
      ]],
      [6, [
        [6, perOrg('Rate limit remaining by organization', 'Remaining share of the rate limit for listing keys. Near zero: increase --atlas.poll-interval.', budgetLeft, 'percentunit', 'Atlas has not reported a rate limit.')],
        [6, throttling],
        [6, requests],
        [6, duration],
      ]],
      [6, [[8, tokens], [8, scrape], [8, process]]],
      [5, [[10, exporters], [14, credentials]]],
    ])
  ),
}.result
