// Alerts about the polls of organizations. Lasting conditions are asked as states: a counter does not say whether a failure
// lasts.
local util = import '../util.libsonnet';
{
  local config = $._config,
  local series(metric, matchers=[]) = metric + util.selector([config.exporterSelector] + matchers),
  local last(metric, matchers=[]) = 'last_over_time(%s[%s])' % [series(metric, matchers), config.gapTolerance],
  local denied = 'unauthorized|forbidden|not_found',

  // Organizations whose last poll failed for such a reason, and that no other exporter polls successfully.
  local failed(reasons) = util.withOrg(|||
    max by (org_id) (%s) == 1
    and on (org_id) org:atlas_ai_keys_exporter_org_up:max == 0
  ||| % last('atlas_ai_keys_exporter_org_last_poll_failed', [reasons])),
  local reasons = util.list(
    'max by (reason) (' + series('atlas_ai_keys_exporter_org_last_poll_failed', ['org_id=%[1]q']) + ' == 1)',
    ['org_id'],
    ' (reason ',
    '{{ $item.Labels.reason }}',
    ')'
  ),
  local page = '/?org={{ $labels.org_id | urlquery }}',

  local ageLimit(severity) = 'clamp_min(%d * max by (org_id) (%s), %d)' % [
    config.dataStale[severity].intervals,
    last('atlas_ai_keys_exporter_org_poll_interval_seconds'),
    util.seconds(config.dataStale[severity].minimum),
  ],
  local dataStale(severity) = util.alert(config, 'AtlasOrgDataStale', {
    local age = 'org:atlas_ai_keys_exporter_org_data_age_seconds:min',
    expr: util.withOrg(
      |||
        floor((%s > %s) / 3600)
      ||| % [age, ageLimit(severity)] +
      if severity == 'critical' then '' else |||
        unless on (org_id)
        %s > %s
      ||| % [age, ageLimit('critical')]
    ),
    labels: util.orgLabels,
    page: page,
    summary: 'Data of organization ' + util.orgName + ' is ' + util.count('hour') + ' old',
    description: |||
      %s: no poll has succeeded for %s%s. Every metric of the organization's keys is as old, and a key that has been used or
      created since then is not seen. `atlas-ai-keys-exporter check` tests credential, access and network.
    ||| % [util.capital(util.org), util.count('hour'), reasons],
  }, severity),

  prometheusAlerts+:: {
    groups+: [{
      name: 'atlas-ai-keys-organizations',
      rules:
        util.alert(config, 'AtlasOrgAccessDenied', {
          expr: failed('reason=~"%s"' % denied),
          labels: util.orgLabels,
          page: page,
          summary: 'Atlas denies access to the AI model API keys of organization ' + util.orgName,
          description: |||
            %s: Atlas rejects the polls%s. The credential has expired or been revoked, lacks the role Organization Read Only or is not in the
            IP access list, or the organization's id is wrong. The metrics show the last successful poll.
            `atlas-ai-keys-exporter check` names the cause.
          ||| % [util.capital(util.org), reasons],
        }) +
        util.alert(config, 'AtlasOrgPollFailing', {
          expr: failed('reason!~"%s"' % denied),
          labels: util.orgLabels,
          page: page,
          summary: 'Polls of organization ' + util.orgName + ' fail',
          description: |||
            %s: polls fail%s, and Atlas does not deny access. Polling is retried automatically, and the metrics show the last successful poll.
            Check Atlas' status page, then DNS, proxy and firewall of the exporter with `atlas-ai-keys-exporter check`.
          ||| % [util.capital(util.org), reasons],
        }) +
        // In this order: the evaluation in which the critical alert begins is the one in which the warning ends.
        dataStale('critical') +
        dataStale('warning') +
        util.alert(config, 'AtlasRequestBudgetTooSmall', {
          expr: util.withOrg(|||
            max by (org_id) (
              %s
              / %s
            ) > %s
          ||| % [
            last('atlas_ai_keys_exporter_org_poll_interval_seconds'),
            last('atlas_ai_keys_exporter_org_configured_poll_interval_seconds'),
            config.requestBudgetIntervals,
          ]),
          labels: util.orgLabels,
          page: page,
          summary: "Atlas' rate limit is too small for the poll interval of organization " + util.orgName,
          description: |||
            %s is polled {{ $value | printf "%%.1f" }} times less often than --atlas.poll-interval says: Atlas' rate limit allows too few requests for
            the number of keys and organizations. Raise --atlas.poll-interval, use one service account for each organization, or
            find the other program that uses the same rate limit.
          ||| % util.capital(util.org),
        }),
    }],
  },
}
