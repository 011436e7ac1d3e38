-- Whether an owner's quotas leave room for another job. Arguments: owner, quotas (name → limit).
-- Returns {} or {quota, seconds until it is renewed or '', id of a started job or ''}.
-- include: quota
-- flags: no-writes
return exceeded_quota(args.owner, args.quotas) or {}
