-- The reference service. A person is known by person_id; the number stays in one table.
CREATE TABLE person_code (
    person_id       text NOT NULL,
    identity_number text NOT NULL,
    area            char(6) NOT NULL
);
CREATE TABLE code_state (
    person_id   text NOT NULL,
    colour      text NOT NULL CHECK (colour IN ('green', 'yellow', 'red')),
    version     integer NOT NULL CHECK (version > 0),
    computed_at timestamptz NOT NULL,
    valid_until timestamptz,  -- NULL: until it is computed again
    reason      text NOT NULL
);
CREATE TABLE venue (
    id      text NOT NULL,
    name    text NOT NULL,
    area    char(6) NOT NULL
);
CREATE TABLE test_result (
    tube       text NOT NULL,
    person_id  text NOT NULL,
    result     text NOT NULL CHECK (result IN ('negative', 'positive', 'pending')),
    sampled_at timestamptz NOT NULL
);
-- P0. No foreign key on purpose: a sample taken in the rain is registered whoever the person is and
-- whatever else is broken. The key is the client's; the epoch is that of the writer that took it.
CREATE TABLE sample_registration (
    idempotency_key text PRIMARY KEY,
    person_id       text NOT NULL,
    tube            text NOT NULL,
    station         text NOT NULL,
    payload_sha256  text NOT NULL,
    epoch           integer NOT NULL,
    registered_at   timestamptz NOT NULL
);
CREATE TABLE scan_event (
    person_id  text NOT NULL,
    venue_id   text NOT NULL,
    scanned_at timestamptz NOT NULL
);
-- The public part only; the private part never leaves the site that made it.
CREATE TABLE signing_key (
    kid        text PRIMARY KEY,
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    site       text NOT NULL,
    not_before timestamptz NOT NULL DEFAULT now()
);
-- Codes of `subject` with a version below `below` are no longer good.
CREATE TABLE revocation (
    number   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject  text NOT NULL,
    below    integer NOT NULL CHECK (below > 0),
    at       timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE ladder_state (
    only_one boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    level    integer NOT NULL CHECK (level BETWEEN 0 AND 6),
    since    timestamptz NOT NULL,
    by       text NOT NULL,
    reason   text NOT NULL
);
INSERT INTO ladder_state (level, since, by, reason) VALUES (0, '2026-01-01Z', 'zaibei', 'normal');
INSERT INTO zaibei_catalogue.asset VALUES
    ('public.person_code', '重要', '卫生健康委员会', true),
    ('public.code_state', '重要', '卫生健康委员会', true),
    ('public.venue', '一般', '卫生健康委员会', false),
    ('public.test_result', '重要', '卫生健康委员会', true),
    ('public.sample_registration', '重要', '卫生健康委员会', true),
    ('public.scan_event', '重要', '卫生健康委员会', true),
    ('public.signing_key', '一般', '大数据发展局', false),
    ('public.revocation', '一般', '大数据发展局', false),
    ('public.ladder_state', '一般', '大数据发展局', false);
