-- 人口基础信息库
CREATE TABLE household (
    id      bigint NOT NULL,
    area    char(6) NOT NULL,
    address text NOT NULL
);
CREATE TABLE person (
    identity_number text NOT NULL CHECK (identity_number ~ '^[0-9]{17}[0-9X]$'),
    name            text NOT NULL,
    sex             char(1) NOT NULL CHECK (sex IN ('男', '女')),
    birth_date      date NOT NULL,
    household_id    bigint NOT NULL,
    role            text NOT NULL CHECK (role IN ('户主', '配偶', '子女', '父母'))
);
CREATE TABLE family_relation (
    identity_number text NOT NULL,
    relative_number text NOT NULL,
    relation        text NOT NULL CHECK (relation IN ('配偶', '子女', '父母')),
    CHECK (identity_number <> relative_number)
);
-- Sealed before it comes here: no key in this database, no column that says what is inside.
CREATE TABLE biometric (
    identity_number text NOT NULL,
    sealed          bytea NOT NULL CHECK (octet_length(sealed) = 64)
);
INSERT INTO zaibei_catalogue.asset VALUES
    ('public.household', '重要', '公安厅户政总队', true),
    ('public.person', '重要', '公安厅户政总队', true),
    ('public.family_relation', '重要', '公安厅户政总队', true),
    ('public.biometric', '核心', '公安厅科技信息化总队', true);
