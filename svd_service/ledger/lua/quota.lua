-- Whether an owner's quotas leave room for more jobs. Arguments: owner, quotas (name → limit), number (of jobs).
-- Returns {} or {quota, seconds until it is renewed or '', id of a started job or ''}.
-- include: quota
-- flags: no-writes
return exceeded_quota(args.owner, args.quotas, args.number) or {}
